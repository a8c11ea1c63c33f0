mkdir ../stuff && cd ../stuff
echo x > x; setfattr -n user.comment -v 'in the archive' x
cp /bin/true capable; setcap cap_net_bind_service=ep capable; : > capable-empty
truncate -s 0 capable; setcap cap_net_bind_service=ep capable
tar --sort=name --xattrs '--xattrs-include=*' --format=pax --owner=:0 --group=:0 -cf ../context/x.tar x capable
