"""How a flow is fitted: thin LightningModules around the functions of flows, meta and robust."""
