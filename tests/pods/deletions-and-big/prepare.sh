# 8 MB that compression can't shorten, the same on every machine.
python3 -c 'import random, sys; sys.stdout.buffer.write(random.Random(1).randbytes(8 << 20))' > seed
