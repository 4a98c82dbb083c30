"""How OpenMP's threads wait for the next parallel loop; the runtime reads it once, when it loads.

By default GNU's runtime has them spin 300,000 times: beside other work (OpenBLAS's threads, other
processes) everything was 2 to 5 times slower, at random. If they sleep at once, each loop has to
wake them: on an idle machine a step of a VAE took 8.6 ms, with a short spin 6.2; one of a DCGAN
113 and 85. So they spin for about as long as waking takes. Other runtimes don't know the second
variable; who sets one of the two is not overruled.
"""

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["GOMP_SPINCOUNT"] = "3000"
