"""Other people's readers and decoders, held against what the engine writes: make test-oracles."""
