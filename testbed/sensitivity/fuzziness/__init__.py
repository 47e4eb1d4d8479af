"""Separation fuzziness of a model's layers, measured, fitted and drawn."""
