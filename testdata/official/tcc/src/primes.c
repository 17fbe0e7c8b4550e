/* Prints how many primes there are below a number, and a sum over them. */
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

int main(int argc, char **argv)
{
	int below = argc > 1 ? atoi(argv[1]) : 100, count = 0;
	unsigned long sum = crc32(0L, Z_NULL, 0);

	for (int n = 2; n < below; n++) {
		int d = 2;
		while (d * d <= n && n % d != 0)
			d++;
		if (d * d > n) {
			count++;
			sum = crc32(sum, (unsigned char *)&n, sizeof n);
		}
	}
	printf("primes %s: %d below %d, crc %08lx\n", VERSION, count, below, sum);
	return 0;
}
