touch -d @1000000000.123456789 tree/sub/f.txt
: > tree/future; touch -d @4000000000 tree/future
: > tree/epoch; touch -d @0 tree/epoch
ln -s sub/f.txt tree/link; touch -h -d @1200000000 tree/link
touch -d @1100000000 tree/sub
