"""The recurrence: its loss, measures, training, checkpoint and collected contexts."""
