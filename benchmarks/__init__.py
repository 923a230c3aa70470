"""What Tandem's promises cost, measured on this machine beside the simplest alternative, in one run."""
