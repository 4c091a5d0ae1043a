"""Where people shall be, and the color and dash of each."""
