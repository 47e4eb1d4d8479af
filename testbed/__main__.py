from testbed.cli.start import main

main()
