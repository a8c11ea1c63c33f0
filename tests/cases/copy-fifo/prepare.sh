mkdir tree
mkfifo tree/pipe
echo plain > tree/plain
