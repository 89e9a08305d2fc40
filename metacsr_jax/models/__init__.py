"""The network: Diffusion Representer, sequence encoders, predictor."""
