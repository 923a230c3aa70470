"""What there is to see: read models that pages, JSON and the command line all show, free of HTTP and HTML."""
