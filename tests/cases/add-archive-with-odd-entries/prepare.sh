mkdir ../stuff && cd ../stuff
mkfifo pipe; : > big-ids; echo dot > plain; mkdir d; echo a > d/a; ln -s /etc/passwd absolute; ln -s ../.. up
truncate -s 100k holes; printf data >> holes
tar --sort=name --format=gnu --owner=:3000000 --group=:4000000 -cf ../context/odd.tar ./pipe ./big-ids ./plain ./d ./absolute ./up ./holes
