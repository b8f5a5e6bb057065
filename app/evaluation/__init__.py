"""Offline evaluation: how good the explanations are, measured."""
