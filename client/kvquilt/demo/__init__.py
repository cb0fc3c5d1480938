"""The demo: kvquilt's main job on a real model, measured against a full prefill in the same run."""
