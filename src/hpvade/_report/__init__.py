"""One page that can be sent to a colleague, from what `tl` and the models' public methods say."""
