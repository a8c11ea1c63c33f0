printf '\357\273\277' > with-bom
sed 's/$/\r/' Dockerfile >> with-bom
mv with-bom Dockerfile
