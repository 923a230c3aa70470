"""The learner: images to features to calibrated classes. It knows no HTTP, queue, database or Label Studio."""
