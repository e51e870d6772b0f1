"""The views, one file each; :mod:`nexa_sdk.notebook.view` says how they are made."""
