from diffuspec.cli import main

raise SystemExit(main())
