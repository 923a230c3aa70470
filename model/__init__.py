"""The learner: images to features to calibrated classes. It knows nothing of HTTP, queues, databases or Label Studio."""
