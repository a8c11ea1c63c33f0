mkdir ../stuff && cd ../stuff
echo x > x
touch -d @1400000000 x
tar --owner=:0 --group=:0 -cf ../context/a.tar x
