"""Weight sparsity: masks, the patterns that a processor can use, and how a network wears them."""
