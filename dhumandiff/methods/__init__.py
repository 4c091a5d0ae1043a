"""One folder a method, the same in each: its weights, what they compute, and how they condition a host. No method imports another."""
