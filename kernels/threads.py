"""How OpenMP's threads wait for the next parallel loop; the runtime reads it once, when it loads.

A thread that sleeps has to be woken for the next loop, some 0.15 ms; one that spins is there at
once, and takes a core from whatever else runs. Ours spin for about 0.7 ms, more than the pauses
between the loops of a training step. Milliseconds for a step of a VAE and of an IAF-VAE on two
cores, alone and beside a job that keeps one of them busy:

    looks before it sleeps           alone         beside a job
    3,000                        10.8  20.1         13    24
    30,000                        7.6  18.1         33    53
    100,000                       7.8  19.1         79   115
    300,000 (GNU's own)           7.8  18.6

PyTorch, which leaves it at GNU's own, took 10.2 and 20.7 ms alone, 281 and 890 beside the job.
Where jobs share cores, say GOMP_SPINCOUNT=3000, or OMP_NUM_THREADS=1 for each. Who sets one of
these variables is not overruled; other runtimes than GNU's don't know the second.
"""

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["GOMP_SPINCOUNT"] = "30000"
