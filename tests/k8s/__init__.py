"""What holds k8s/ and the Dockerfile: a renderer, schemas and rules; ``python -m tests.k8s`` runs them."""
