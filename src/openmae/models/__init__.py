"""Patches, positions, masks, encoder and decoder: tensors in, tensors out. No paths,
configurations, ranks or printing.
"""
