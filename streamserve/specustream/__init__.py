"""SpecuStream: how deep each running request speculates, decided step by step inside its lane."""
