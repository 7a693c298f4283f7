"""Hydra's config groups; a package so that ``pkg://lightning_channels.conf`` works after a wheel install."""
