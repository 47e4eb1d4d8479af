"""OpenVINO in a process that lives on after it."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def test_ctrl_c_is_told_after_engines_were_closed_in_any_order() -> None:
    """A signal's handler needs a stack that is still there; in a process of its own, which may not survive."""
    program = """
        import gc, signal
        import numpy as np
        from onnx import TensorProto, helper
        from testbed.engines.openvino import OpenVinoRunner
        from testbed.engines.runner import EngineRequest

        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negative", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        request = EngineRequest(model.SerializeToString(), "0" * 64, "d")

        runners = [OpenVinoRunner(request) for _ in range(3)]
        for runner in runners:
            runner.run({"x": np.ones(2, np.float32)})
        for _ in range(3):  # the oldest first
            runners.pop(0).close()
            gc.collect()
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("told")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr
