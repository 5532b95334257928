"""What is measured on a decoder without training it: gradient alignment and sharpness."""
