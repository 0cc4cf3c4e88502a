"""The process that owns the device. The web process starts it and shares only ``protocol`` with it."""
