"""Gymnasium environments: the agent routes requests or sets depths, over simulated or live lanes.

Importing this registers `streamserve/Serve-v0`, `Route-v0` and `Spec-v0`, and their live twins `ServeLive-v0`,
`RouteLive-v0` and `SpecLive-v0`, which want the setting `live` (see `docs/environment.md`).
"""

import gymnasium

IDS = ("Serve", "Route", "Spec")


def _register() -> None:
    for name in IDS:
        kwargs = {} if name == "Spec" else {"depth": name == "Serve"}
        entry = "envs.control:ControlEnv" if name == "Spec" else "envs.routing:RoutingEnv"
        vector = "envs.vector:control" if name == "Spec" else "envs.vector:routing"
        gymnasium.register(f"streamserve/{name}-v0", entry, kwargs=kwargs, vector_entry_point=vector)
        gymnasium.register(f"streamserve/{name}Live-v0", entry, kwargs=kwargs, nondeterministic=True)


_register()
