from diffuspec.cli.main import main

raise SystemExit(main())
