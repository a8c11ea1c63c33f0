mkdir -p ../stuff/dir && cd ../stuff
echo one > dir/one; ln dir/one dir/hard; ln -s one dir/soft; : > top; chmod 4755 top; mkdir dir/empty; chmod 1777 dir/empty
touch -h -d @1400000000 dir/* dir top
tar --sort=name --owner=1000:1000 --group=1001:1001 -cf ../context/a.tar dir top
tar --sort=name --owner=0:0 --group=0:0 -cf ../context/b.tar --transform=s/top/other/ top
cd ../context
gzip -nk a.tar; xz -k a.tar; bzip2 -k a.tar; zstd -qk a.tar; cp a.tar.gz misnamed.txt
