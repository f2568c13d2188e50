import signal
import subprocess
import sys

from jobs.driver.processes import send_signal


def test_a_signal_to_a_process_that_ends_just_before_does_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        send_signal(ended.pid, signal.SIGKILL)
