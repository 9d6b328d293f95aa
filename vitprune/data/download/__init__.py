"""The download stage: fetch a source of images and keep it as it came."""
