"""What comes from outside: matrices in any form, gene names, bulk and its units."""
