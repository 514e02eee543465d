"""The commands of ``newllm``, one file each: what it does, and the arguments it takes."""
