"""Read ``firstopen.toml`` and the environment into frozen Structs."""
