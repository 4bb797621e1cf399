"""Fine-tuning: adapters, frozen weights, learning rates by depth, gradient checkpointing."""
