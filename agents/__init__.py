"""PPO agents: training, evaluation, and export as data that serving reads without torch."""
