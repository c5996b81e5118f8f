"""``hydra/launcher=ray``: ``rad_lightning.launchers.ray`` as a Hydra plugin.

Hydra loads plugins from the namespace package ``hydra_plugins`` alone, so this file lies there.
"""

from hydra.core.config_store import ConfigStore

from rad_lightning.launchers import ray


class RayLauncher(ray.RayLauncher):
    """Runs the cells of a sweep as Ray tasks."""


ConfigStore.instance().store(
    group="hydra/launcher", name="ray", node=ray.RayLauncherConf, provider="rad_lightning"
)
