"""The service: Label Studio, Redis, SQL and MLflow around the learner in `model`. It does no algebra."""
