"""What an audit is and how it is run. Only `controller` imports ray; importing this package is cheap."""
