"""A calibration with figures near those of the reference machine, for tests that need some simulated lane."""

from streamserve.lanes.sim.calibration import FORMAT, Calibration, DraftClass, Front, Noise, Origin, StepModel, Transfer

ORIGIN = Origin(
    host="example",
    cores_per_lane=1,
    model="example",
    vllm="0.32.0",
    streamserve="0.1.0",
    date="2026-01-01",
    command="none: made up for tests",
)
DECODE_S = (
    (1, 0.040),
    (4, 0.044),
    (8, 0.046),
    (12, 0.048),
    (16, 0.053),
    (24, 0.060),
    (32, 0.070),
    (48, 0.084),
    (64, 0.096),
    (96, 0.118),
    (128, 0.145),
)
GOOD = DraftClass(share=0.35, acceptance=(0.90, 0.92, 0.93, 0.94, 0.94, 0.94, 0.94, 0.94), stay=0.5)
FAIR = DraftClass(share=0.30, acceptance=(0.50, 0.55, 0.60, 0.65), stay=0.2)
POOR = DraftClass(share=0.15, acceptance=(0.15, 0.30), stay=0.0)
RESIDUALS = (0.00, 0.02, 0.03, -0.01, -0.02, -0.03, 0.01, 0.05, 0.04, 0.00, -0.01, -0.04)


def example() -> Calibration:
    """A lane of one core; workloads `chat`, `code` and `mix`."""
    return Calibration(
        format=FORMAT,
        origin=ORIGIN,
        step=StepModel(
            decode_s=DECODE_S, context_token_s=1e-7, prompt_s=0.004, prompt_token_s=0.0008, attention_s=1e-8
        ),
        transfer=Transfer(base_s=0.005, token_s=2e-6),
        front=Front(submit_s=0.001, return_s=0.001),
        coupling=(1.0, 1.05),
        noise=Noise(epoch_s=1.0, log_residuals=RESIDUALS, step_sigma=0.03),
        acceptance={"mix": (GOOD, FAIR, POOR), "code": (GOOD, FAIR), "chat": (FAIR, POOR)},
        block_tokens=128,
        kv_tokens=20_000,
        max_depth=8,
    )
