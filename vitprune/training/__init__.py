"""Training and fine-tuning of a ViT: data, augmentation, optimisation, distillation, records and saved state."""
