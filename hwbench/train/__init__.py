"""Train the torch view: recovery after compression, distillation, sparsity and gates."""
