"""What every method puts on a host: people's strengths and masks, laid over the samples of a batch."""
