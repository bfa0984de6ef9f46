"""Pictures and figures, made from run folders and models; no training code calls back into it."""
