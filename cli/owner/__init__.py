"""What an owner does alone, without a service: keep a key, mix its rows into a dataset, ask a suspect."""
