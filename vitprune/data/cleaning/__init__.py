"""The clean stage: decode, audit, split and pack the images that were downloaded."""
