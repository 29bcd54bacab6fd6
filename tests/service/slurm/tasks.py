"""Tasks for the workers, in a module that they can import."""

import os
import time

from ssem_dask.task import Result, Task


def wait_a_second(task: Task) -> Result:
    time.sleep(1.0)
    return Result()


def tell_own_gpu(task: Task) -> Result:
    time.sleep(1.0)  # so that one worker does not do both
    return Result(message=os.environ["CUDA_VISIBLE_DEVICES"])
